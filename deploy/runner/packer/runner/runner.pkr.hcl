# The upper layer: the agent, its unit, its guard. Built from the newest base whenever one of them changes.
#
#   make build-agent ARCH=amd64
#   packer build -only='*.amd64' -var vpc_id=vpc-… -var agent_binary=../../../../bin/runs-fleet-agent .

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

variable "agent_binary" {
  type        = string
  description = "The static agent for the architecture that is built."
}

variable "job_uses_docker" {
  type        = bool
  default     = true
  description = "Jobs may use Docker. Whoever may can become root on the machine, which then serves no one else."
}

locals {
  stamp = formatdate("YYYYMMDDhhmmss", timestamp())
  tags = merge({
    Version        = var.ami_version
    OS             = "AmazonLinux2023"
    ManagedBy      = "Packer"
    created-by     = "runs-fleet-packer"
    BuildTimestamp = local.stamp
    Stage          = "application"
    BaseAMI        = "{{ .SourceAMI }}"
  }, var.extra_tags)
}

source "amazon-ebs" "amd64" {
  region                                = var.region
  vpc_id                                = var.vpc_id
  instance_type                         = "c6i.xlarge"
  ami_name                              = "runs-fleet-runner-amd64-${local.stamp}"
  iam_instance_profile                  = "runs-fleet-runner"
  communicator                          = "ssh"
  ssh_username                          = "ec2-user"
  ssh_interface                         = "session_manager"
  user_data                             = "#!/bin/sh\nshutdown -h +120\n"
  shutdown_behavior                     = "terminate"
  temporary_security_group_source_cidrs = ["127.0.0.1/32"]

  source_ami_filter {
    filters     = { name = "runner-base-amd64-*" }
    owners      = ["self"]
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

  run_tags      = merge(local.tags, { Name = "packer-runs-fleet-runner-amd64" })
  tags          = merge(local.tags, { Name = "runs-fleet-runner-amd64", Architecture = "amd64" })
  snapshot_tags = merge(local.tags, { Name = "runs-fleet-runner-amd64", Architecture = "amd64" })
}

source "amazon-ebs" "arm64" {
  region                                = var.region
  vpc_id                                = var.vpc_id
  instance_type                         = "c7g.xlarge"
  ami_name                              = "runs-fleet-runner-arm64-${local.stamp}"
  iam_instance_profile                  = "runs-fleet-runner"
  communicator                          = "ssh"
  ssh_username                          = "ec2-user"
  ssh_interface                         = "session_manager"
  user_data                             = "#!/bin/sh\nshutdown -h +120\n"
  shutdown_behavior                     = "terminate"
  temporary_security_group_source_cidrs = ["127.0.0.1/32"]

  source_ami_filter {
    filters     = { name = "runner-base-arm64-*" }
    owners      = ["self"]
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

  run_tags      = merge(local.tags, { Name = "packer-runs-fleet-runner-arm64" })
  tags          = merge(local.tags, { Name = "runs-fleet-runner-arm64", Architecture = "arm64" })
  snapshot_tags = merge(local.tags, { Name = "runs-fleet-runner-arm64", Architecture = "arm64" })
}

build {
  sources = ["source.amazon-ebs.amd64", "source.amazon-ebs.arm64"]

  provisioner "file" {
    source      = var.agent_binary
    destination = "/tmp/runs-fleet-agent"
  }

  provisioner "file" {
    source      = "../../runs-fleet-agent.service"
    destination = "/tmp/runs-fleet-agent.service"
  }

  provisioner "file" {
    source      = "../../runs-fleet-bootstrap.sh"
    destination = "/tmp/runs-fleet-bootstrap.sh"
  }

  provisioner "shell" {
    script           = "../scripts/install.sh"
    execute_command  = "chmod +x {{ .Path }}; sudo env {{ .Vars }} {{ .Path }}"
    environment_vars = ["FROM=/tmp", "JOB_USES_DOCKER=${var.job_uses_docker}"]
  }

  # The last word before the snapshot: an image that cannot work is not made.
  provisioner "shell" {
    script          = "../scripts/check.sh"
    execute_command = "chmod +x {{ .Path }}; sudo env {{ .Vars }} {{ .Path }}"
  }
}
