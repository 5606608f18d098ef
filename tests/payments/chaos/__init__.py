"""Breaks payments while money moves, and proves that none was taken, given or paid twice.

crashing.py and launcher.py: the service as a process that dies at a chosen place. counter.py,
money.py and machine.py: the service's own classes without a server, a plain model of what a
school's money does, and rules by which hypothesis drives both.
"""
