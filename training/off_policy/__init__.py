"""What a policy would have earned, from what another one did: logs, estimators, and bundles judged by them."""
