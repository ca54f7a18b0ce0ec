"""Bags through the controller again: what the robot did, checked bit for bit, or what it would have done."""
