"""What runs on the robot: contract, sensing, inference, safety, limits and the tick that joins them.

Imports numpy and onnxruntime only (rosbags lazily, in `runtime.replay`).
"""
