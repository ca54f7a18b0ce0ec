"""The sensor-rich cart-pole: what `benchmarks/refinement.py` trains on and compares under sensor faults."""
