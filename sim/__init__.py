"""PyBullet robots and tasks with the gymnasium API, seeded and deterministic."""
