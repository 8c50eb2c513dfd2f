"""The parts of a control plane that act on their own: each looks at the whole store and makes one thing true."""
