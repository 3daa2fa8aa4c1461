# Makes the topics of config.yaml; those that are there stay as they are.
set -eu
for topic in plant stream-ad.scores stream-ad.anomalies stream-ad.dead-letters; do
    /opt/kafka/bin/kafka-topics.sh --bootstrap-server kafka:9094 --create --if-not-exists --topic "$topic" --partitions 4
done
