"""The outer loop as a process, ordinary training, pools of trained networks, and the devices they run on."""
