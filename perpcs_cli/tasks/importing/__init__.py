"""Users from the files of others: their layouts, the check of every record, and the columns of own tasks."""
