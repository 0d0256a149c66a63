"""What happens beside the loop: stop early, keep the best weights, show progress.

Any object with Keras' hooks is a callback; `Callback` documents them.
"""

from .base import Callback

__all__ = ["Callback"]
