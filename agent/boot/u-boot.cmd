# Which slot boots. To be run before the kernel is loaded (compile it with mkimage -T
# script, or put it into bootcmd); it sets groundswell_slot, to a or b, and the kernel's
# command line must carry groundswell.slot=${groundswell_slot} and panic=10. If the slot
# cannot be loaded, load ${groundswell_other}. The environment should be redundant.
if test "${groundswell_active}" = b; then setenv groundswell_slot b; setenv groundswell_other a; else setenv groundswell_slot a; setenv groundswell_other b; fi
setenv groundswell_left
if test "${groundswell_trial}" = "${groundswell_other}"; then
	if test "${groundswell_tries}" = 5; then setenv groundswell_left 4; fi
	if test "${groundswell_tries}" = 4; then setenv groundswell_left 3; fi
	if test "${groundswell_tries}" = 3; then setenv groundswell_left 2; fi
	if test "${groundswell_tries}" = 2; then setenv groundswell_left 1; fi
	if test "${groundswell_tries}" = 1; then setenv groundswell_left 0; fi
fi
if test -n "${groundswell_left}"; then
	# Counted before it is booted; what cannot be counted is not booted.
	setenv groundswell_tries ${groundswell_left}
	if saveenv; then setenv groundswell_other ${groundswell_slot}; setenv groundswell_slot ${groundswell_trial}; fi
fi
