"""Completion in bash, zsh and fish: their scripts, and the answers, which load nothing of the commands themselves."""
