//! One multiplexed SSH connection per VM, with a deadline on every step.
