"""Reactions that a mechanism lacks, learned: POLLU without two, hydrogen in air without one."""
