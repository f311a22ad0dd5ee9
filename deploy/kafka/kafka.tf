# Made by `arauto topics --format terraform`, for the provider Mongey/kafka.
terraform {
  required_providers {
    kafka = {
      source = "Mongey/kafka"
    }
  }
}

variable "replication_factor" {
  type    = number
  default = 3
}

locals {
  topics = {
    "arauto.retry.0s" = {
      partitions = 12
      config = {
        "cleanup.policy" = "delete"
        "message.timestamp.type" = "LogAppendTime"
        "retention.ms" = "1209600000"
        "retention.bytes" = "-1"
        "max.message.bytes" = "1114124"
      }
    }
    "arauto.retry.5s" = {
      partitions = 12
      config = {
        "cleanup.policy" = "delete"
        "message.timestamp.type" = "LogAppendTime"
        "retention.ms" = "1209605000"
        "retention.bytes" = "-1"
        "max.message.bytes" = "1114124"
      }
    }
    "arauto.retry.15s" = {
      partitions = 12
      config = {
        "cleanup.policy" = "delete"
        "message.timestamp.type" = "LogAppendTime"
        "retention.ms" = "1209615000"
        "retention.bytes" = "-1"
        "max.message.bytes" = "1114124"
      }
    }
    "arauto.retry.1m" = {
      partitions = 12
      config = {
        "cleanup.policy" = "delete"
        "message.timestamp.type" = "LogAppendTime"
        "retention.ms" = "1209660000"
        "retention.bytes" = "-1"
        "max.message.bytes" = "1114124"
      }
    }
    "arauto.retry.5m" = {
      partitions = 12
      config = {
        "cleanup.policy" = "delete"
        "message.timestamp.type" = "LogAppendTime"
        "retention.ms" = "1209900000"
        "retention.bytes" = "-1"
        "max.message.bytes" = "1114124"
      }
    }
    "arauto.retry.15m" = {
      partitions = 12
      config = {
        "cleanup.policy" = "delete"
        "message.timestamp.type" = "LogAppendTime"
        "retention.ms" = "1210500000"
        "retention.bytes" = "-1"
        "max.message.bytes" = "1114124"
      }
    }
    "arauto.retry.1h" = {
      partitions = 12
      config = {
        "cleanup.policy" = "delete"
        "message.timestamp.type" = "LogAppendTime"
        "retention.ms" = "1213200000"
        "retention.bytes" = "-1"
        "max.message.bytes" = "1114124"
      }
    }
    "arauto.retry.4h" = {
      partitions = 12
      config = {
        "cleanup.policy" = "delete"
        "message.timestamp.type" = "LogAppendTime"
        "retention.ms" = "1224000000"
        "retention.bytes" = "-1"
        "max.message.bytes" = "1114124"
      }
    }
    "arauto.dead" = {
      partitions = 12
      config = {
        "cleanup.policy" = "delete"
        "retention.ms" = "2592000000"
        "retention.bytes" = "-1"
        "max.message.bytes" = "1114124"
      }
    }
    "arauto.state" = {
      partitions = 1
      config = {
        "cleanup.policy" = "compact"
        "segment.ms" = "3600000"
        "min.cleanable.dirty.ratio" = "0.1"
      }
    }
    "arauto.notices" = {
      partitions = 1
      config = {
        "cleanup.policy" = "delete"
        "retention.ms" = "604800000"
      }
    }
  }

  rights = [
    # source: its events, and how large they may be
    { user = "User:arauto", type = "Topic", name = "orders", pattern = "Literal", operations = ["Read", "DescribeConfigs"] },
    # source: its events, and how large they may be
    { user = "User:arauto", type = "Topic", name = "payments", pattern = "Literal", operations = ["Read", "DescribeConfigs"] },
    # its own topics: retry tiers, dead letters, state
    { user = "User:arauto", type = "Topic", name = "arauto.", pattern = "Prefixed", operations = ["Read", "Write", "DescribeConfigs"] },
    # its group
    { user = "User:arauto", type = "Group", name = "arauto", pattern = "Literal", operations = ["Read"] },
    # groups of endpoints with a queue of their own, deleted when that is given up
    { user = "User:arauto", type = "Group", name = "arauto.", pattern = "Prefixed", operations = ["Read", "Delete"] },
    # source: its events, and how large they may be
    { user = "User:oncall", type = "Topic", name = "orders", pattern = "Literal", operations = ["Read", "DescribeConfigs"] },
    # source: its events, and how large they may be
    { user = "User:oncall", type = "Topic", name = "payments", pattern = "Literal", operations = ["Read", "DescribeConfigs"] },
    # its own topics: retry tiers, dead letters, state
    { user = "User:oncall", type = "Topic", name = "arauto.", pattern = "Prefixed", operations = ["Read", "Write", "DescribeConfigs"] },
    # its group
    { user = "User:oncall", type = "Group", name = "arauto", pattern = "Literal", operations = ["Read"] },
    # groups of endpoints with a queue of their own, deleted when that is given up
    { user = "User:oncall", type = "Group", name = "arauto.", pattern = "Prefixed", operations = ["Read", "Delete"] },
    # replays, backfills, what is done about retries: exactly once
    { user = "User:oncall", type = "TransactionalID", name = "arauto.", pattern = "Prefixed", operations = ["Write"] },
    # purging dead letters
    { user = "User:oncall", type = "Topic", name = "arauto.dead", pattern = "Literal", operations = ["Delete"] },
  ]
}

resource "kafka_topic" "arauto" {
  for_each           = local.topics
  name               = each.key
  partitions         = each.value.partitions
  replication_factor = var.replication_factor
  config             = each.value.config
}

resource "kafka_acl" "arauto" {
  for_each = {
    for right in flatten([
      for right in local.rights : [
        for operation in right.operations : merge(right, { operation = operation })
      ]
    ]) : "${right.user} ${right.operation} ${right.type} ${right.name}" => right
  }
  acl_principal                = each.value.user
  acl_host                     = "*"
  acl_permission_type          = "Allow"
  acl_operation                = each.value.operation
  resource_type                = each.value.type
  resource_name                = each.value.name
  resource_pattern_type_filter = each.value.pattern
}
