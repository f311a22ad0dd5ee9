#!/usr/bin/env bash
# Made by `arauto topics --format kafka-cli`. To be run by somebody who may create topics and grant rights, with Kafka's
# own tools on the PATH; what exists already is left as it is:
#   BOOTSTRAP=kafka:9092 COMMAND_CONFIG=admin.properties bash kafka.sh
set -euo pipefail

options=(--bootstrap-server "${BOOTSTRAP:-localhost:9092}")
if [ -n "${COMMAND_CONFIG:-}" ]; then
    options+=(--command-config "$COMMAND_CONFIG")
fi

topic() {
    kafka-topics.sh "${options[@]}" --create --if-not-exists --topic "$@"
}

allow() {
    kafka-acls.sh "${options[@]}" --add "$@"
}

topic arauto.retry.0s --partitions 12 \
    --config cleanup.policy=delete \
    --config message.timestamp.type=LogAppendTime \
    --config retention.ms=1209600000 \
    --config retention.bytes=-1 \
    --config max.message.bytes=1114124
topic arauto.retry.5s --partitions 12 \
    --config cleanup.policy=delete \
    --config message.timestamp.type=LogAppendTime \
    --config retention.ms=1209605000 \
    --config retention.bytes=-1 \
    --config max.message.bytes=1114124
topic arauto.retry.15s --partitions 12 \
    --config cleanup.policy=delete \
    --config message.timestamp.type=LogAppendTime \
    --config retention.ms=1209615000 \
    --config retention.bytes=-1 \
    --config max.message.bytes=1114124
topic arauto.retry.1m --partitions 12 \
    --config cleanup.policy=delete \
    --config message.timestamp.type=LogAppendTime \
    --config retention.ms=1209660000 \
    --config retention.bytes=-1 \
    --config max.message.bytes=1114124
topic arauto.retry.5m --partitions 12 \
    --config cleanup.policy=delete \
    --config message.timestamp.type=LogAppendTime \
    --config retention.ms=1209900000 \
    --config retention.bytes=-1 \
    --config max.message.bytes=1114124
topic arauto.retry.15m --partitions 12 \
    --config cleanup.policy=delete \
    --config message.timestamp.type=LogAppendTime \
    --config retention.ms=1210500000 \
    --config retention.bytes=-1 \
    --config max.message.bytes=1114124
topic arauto.retry.1h --partitions 12 \
    --config cleanup.policy=delete \
    --config message.timestamp.type=LogAppendTime \
    --config retention.ms=1213200000 \
    --config retention.bytes=-1 \
    --config max.message.bytes=1114124
topic arauto.retry.4h --partitions 12 \
    --config cleanup.policy=delete \
    --config message.timestamp.type=LogAppendTime \
    --config retention.ms=1224000000 \
    --config retention.bytes=-1 \
    --config max.message.bytes=1114124
topic arauto.dead --partitions 12 \
    --config cleanup.policy=delete \
    --config retention.ms=2592000000 \
    --config retention.bytes=-1 \
    --config max.message.bytes=1114124
topic arauto.state --partitions 1 \
    --config cleanup.policy=compact \
    --config segment.ms=3600000 \
    --config min.cleanable.dirty.ratio=0.1
topic arauto.notices --partitions 1 \
    --config cleanup.policy=delete \
    --config retention.ms=604800000

# source: its events, and how large they may be
allow --topic orders --operation Read --operation DescribeConfigs \
    --allow-principal User:arauto \
    --allow-principal User:oncall
# source: its events, and how large they may be
allow --topic payments --operation Read --operation DescribeConfigs \
    --allow-principal User:arauto \
    --allow-principal User:oncall
# its own topics: retry tiers, dead letters, state
allow --topic arauto. --resource-pattern-type prefixed --operation Read --operation Write --operation DescribeConfigs \
    --allow-principal User:arauto \
    --allow-principal User:oncall
# its group
allow --group arauto --operation Read \
    --allow-principal User:arauto \
    --allow-principal User:oncall
# groups of endpoints with a queue of their own, deleted when that is given up
allow --group arauto. --resource-pattern-type prefixed --operation Read --operation Delete \
    --allow-principal User:arauto \
    --allow-principal User:oncall
# replays, backfills, what is done about retries: exactly once
allow --transactional-id arauto. --resource-pattern-type prefixed --operation Write \
    --allow-principal User:oncall
# purging dead letters
allow --topic arauto.dead --operation Delete \
    --allow-principal User:oncall
