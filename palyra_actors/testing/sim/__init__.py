"""A simulator of the whole engine: one thread, one seed, and everything that can go wrong.

    python -m palyra_actors.testing.sim --seeds 1000      random lives, held to all promises
    python -m palyra_actors.testing.sim --seed 17         one of them again, exactly

`World` is the same for tests of your own: an engine whose clock, disk and power you hold.
"""

from palyra_actors.testing.sim.life import Life, live
from palyra_actors.testing.sim.peers import Asked, Order, Peer
from palyra_actors.testing.sim.world import Stuck, World

__all__ = ["Asked", "Life", "Order", "Peer", "Stuck", "World", "live"]
