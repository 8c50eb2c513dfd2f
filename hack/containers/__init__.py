"""The image and the pod without a container engine, on Linux: what the ``Dockerfile`` says is made as a layer over this
machine's own file system (``image``), and a pod's containers run as its object says: command, environment, mounts, user and
capabilities (``pod``). Overlays and mount namespaces do it, as root or in a user namespace.

Not as in a real container: the base image is this machine (its Python, its libc), processes, network and limits of memory are
the machine's, and seccomp profiles are not applied.
"""
