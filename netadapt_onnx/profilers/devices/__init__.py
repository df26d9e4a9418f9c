"""Places where models are measured: this machine, and those reached by ssh or adb."""
