"""Every published method as a preset: one module per family, found by its `PRESETS`, built by `registry.build_strategy`."""
