# The lower layer of a runner's machine image: the operating system, Docker, the Actions runner. Built weekly, because
# GitHub refuses runners that are a month behind.
#
#   packer build -only='*.amd64' -var vpc_id=vpc-… -var runner_version=… -var runner_sha256=… .

variable "region" {
  type    = string
  default = "ap-northeast-1"
}

variable "vpc_id" {
  type        = string
  description = "The network that the builder runs in. It needs a way out and no way in."
}

variable "ami_version" {
  type    = string
  default = "1.0.0"
}

variable "extra_tags" {
  type    = map(string)
  default = {}
}

variable "runner_version" {
  type        = string
  description = "Version of actions/runner. Without a default: a literal expires."
}

variable "runner_sha256" {
  type        = string
  description = "SHA-256 of the runner's tarball for the architecture that is built."
}

locals {
  stamp = formatdate("YYYYMMDDhhmmss", timestamp())
  tags = merge({
    Version        = var.ami_version
    OS             = "AmazonLinux2023"
    ManagedBy      = "Packer"
    created-by     = "runs-fleet-packer"
    BuildTimestamp = local.stamp
    Stage          = "base"
    RunnerVersion  = var.runner_version
  }, var.extra_tags)
}

source "amazon-ebs" "amd64" {
  region               = var.region
  vpc_id               = var.vpc_id
  instance_type        = "c7i.xlarge"
  ami_name             = "runner-base-amd64-${local.stamp}"
  iam_instance_profile = "runs-fleet-runner"
  communicator         = "ssh"
  ssh_username         = "ec2-user"
  ssh_interface        = "session_manager"
  # A builder whose owner died ends itself.
  user_data                             = "#!/bin/sh\nshutdown -h +120\n"
  shutdown_behavior                     = "terminate"
  temporary_security_group_source_cidrs = ["127.0.0.1/32"]

  # Not the minimal image: that one has no SSM agent.
  source_ami_filter {
    filters = {
      name                = "al2023-ami-2023.*-kernel-6.1-x86_64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    owners      = ["amazon"]
    most_recent = true
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = 30
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = 125
    delete_on_termination = true
  }

  run_tags      = merge(local.tags, { Name = "packer-runner-base-amd64" })
  tags          = merge(local.tags, { Name = "runner-base-amd64", Architecture = "amd64" })
  snapshot_tags = merge(local.tags, { Name = "runner-base-amd64", Architecture = "amd64" })
}

source "amazon-ebs" "arm64" {
  region                                = var.region
  vpc_id                                = var.vpc_id
  instance_type                         = "c7g.xlarge"
  ami_name                              = "runner-base-arm64-${local.stamp}"
  iam_instance_profile                  = "runs-fleet-runner"
  communicator                          = "ssh"
  ssh_username                          = "ec2-user"
  ssh_interface                         = "session_manager"
  user_data                             = "#!/bin/sh\nshutdown -h +120\n"
  shutdown_behavior                     = "terminate"
  temporary_security_group_source_cidrs = ["127.0.0.1/32"]

  source_ami_filter {
    filters = {
      name                = "al2023-ami-2023.*-kernel-6.1-arm64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    owners      = ["amazon"]
    most_recent = true
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = 30
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = 125
    delete_on_termination = true
  }

  run_tags      = merge(local.tags, { Name = "packer-runner-base-arm64" })
  tags          = merge(local.tags, { Name = "runner-base-arm64", Architecture = "arm64" })
  snapshot_tags = merge(local.tags, { Name = "runner-base-arm64", Architecture = "arm64" })
}

build {
  sources = ["source.amazon-ebs.amd64", "source.amazon-ebs.arm64"]

  provisioner "shell" {
    script          = "../scripts/base.sh"
    execute_command = "chmod +x {{ .Path }}; sudo env {{ .Vars }} {{ .Path }}"
    environment_vars = [
      "RUNNER_VERSION=${var.runner_version}",
      "RUNNER_SHA256=${var.runner_sha256}",
    ]
  }
}
