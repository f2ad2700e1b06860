# Which slot boots, with the variables that RAUC keeps in U-Boot's environment. To be run
# before the kernel is loaded (compile it with mkimage -T script, or put it into bootcmd);
# it sets rauc_slot, to a or b, and the kernel's command line must carry
# rauc.slot=${rauc_slot} and panic=10. If the slot cannot be loaded, load ${rauc_other},
# unless it is empty. The environment should be redundant.
#
# RAUC puts the slots that may boot into BOOT_ORDER, and says how often each may be tried.
# Every boot counts: whoever has booted well says so to RAUC. At most 5 tries.
if test -n "${BOOT_ORDER}"; then true; else setenv BOOT_ORDER a b; fi
if test -n "${BOOT_a_LEFT}"; then true; else setenv BOOT_a_LEFT 3; fi
if test -n "${BOOT_b_LEFT}"; then true; else setenv BOOT_b_LEFT 3; fi
setenv rauc_slot
setenv rauc_last
setenv rauc_other
for rauc_next in ${BOOT_ORDER}; do
	if test -n "${rauc_slot}"; then setenv rauc_other ${rauc_next}; fi
	if test -z "${rauc_slot}"; then
		if test "${rauc_next}" = a; then setenv rauc_left ${BOOT_a_LEFT}; else setenv rauc_left ${BOOT_b_LEFT}; fi
		setenv rauc_less
		if test "${rauc_left}" = 5; then setenv rauc_less 4; fi
		if test "${rauc_left}" = 4; then setenv rauc_less 3; fi
		if test "${rauc_left}" = 3; then setenv rauc_less 2; fi
		if test "${rauc_left}" = 2; then setenv rauc_less 1; fi
		if test "${rauc_left}" = 1; then setenv rauc_less 0; fi
		if test -n "${rauc_less}"; then
			setenv rauc_slot ${rauc_next}
			setenv rauc_other ${rauc_last}
			if test "${rauc_next}" = a; then setenv BOOT_a_LEFT ${rauc_less}; else setenv BOOT_b_LEFT ${rauc_less}; fi
		fi
	fi
	setenv rauc_last ${rauc_next}
done
if test -z "${rauc_slot}"; then
	# Nothing has a try left: all that RAUC has not marked bad get theirs again.
	setenv rauc_slot ${rauc_last}
	setenv BOOT_a_LEFT 3
	setenv BOOT_b_LEFT 3
fi
# Counted before it is booted. What cannot be counted may be on trial, and is not booted;
# the last one that is good is not.
if saveenv; then true; else setenv rauc_slot ${rauc_last}; setenv rauc_other; fi
