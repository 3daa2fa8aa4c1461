"""stream_ad: anomaly detection on streams of tabular and sensor data, without labels."""
