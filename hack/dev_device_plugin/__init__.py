"""A device plugin for clusters whose GPUs are simulated: ``python -m hack.dev_device_plugin``.

It speaks the kubelet's API as NVIDIA's does, and like that one reads the GPUs once, when it starts (strategy ``mixed``: whole
GPUs, and each profile as a resource of its own; devices are UUIDs). Containers get the UUIDs in NVIDIA_VISIBLE_DEVICES, and
nothing else.
"""
