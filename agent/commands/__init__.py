"""Commands that open doors of their own, one file each. Like the daemon they compose; they decide nothing."""
