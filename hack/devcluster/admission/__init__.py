"""What may refuse a write that is well-formed and allowed: policies in CEL, and quotas."""
