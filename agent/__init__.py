"""WarmSlice: one agent per GPU node. The flow is desired -> observe -> plan -> execute -> report."""
