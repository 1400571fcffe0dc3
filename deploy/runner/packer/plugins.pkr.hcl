# For Packer 1.7 and later. Older ones bring the builder with them and do not know this block, so it stands alone: copy
# or link it into the directory that is built, and leave it out where it is not understood.
packer {
  required_version = ">= 1.7.0"
  required_plugins {
    amazon = {
      version = ">= 1.3.0"
      source  = "github.com/hashicorp/amazon"
    }
  }
}
