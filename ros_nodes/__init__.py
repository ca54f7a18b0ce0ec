"""rclpy nodes: thin adapters around the runtime and the simulator."""
