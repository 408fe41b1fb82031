"""Programs that measure fedmq, each against a baseline in the same run; see benchmarks/README.md."""
