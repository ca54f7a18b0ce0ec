"""Balance a pole on a cart by pushing the cart as hard as the motor can, to the left or to the right."""

from __future__ import annotations

from sim.tasks.cartpole import CartPole


class CartPolePush(CartPole):
    """The discrete variant of `cartpole`."""

    name = "cartpole_push"
    summary = "balance a pole on a cart by pushes to the left or right"
    choices = ((-1.0,), (1.0,))
