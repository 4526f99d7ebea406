"""Commands of what sharers give: adapters, gates, pools."""
