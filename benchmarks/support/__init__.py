"""What several benchmarks need: processes, a load generator, bare baselines, data, and the table at the end."""
