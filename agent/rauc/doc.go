// Package rauc has RAUC (https://rauc.io) keep the two copies of a system: RAUC writes
// the new version into the idle slots and tells the bootloader; this package decides
// when, and proves what came of it.
//
// An artifact is a RAUC bundle. The agent has compared it with what the release role
// has signed before RAUC sees it, and RAUC then checks its own signature: a bundle is
// installed only if both agree. RAUC's service is asked over D-Bus, and everything that
// is asked of it has an end (ErrUnavailable).
//
// A slot is known by its bootname, and stands for its group: the slot that the
// bootloader boots and those whose parent it is. Which one runs, the kernel's command
// line says (rauc.slot=), as it does to RAUC. How often a slot is tried, the bootloader
// counts, in the way that RAUC drives it; the agent marks as good what it has found
// healthy, at each boot anew, because RAUC's counters count every boot.
//
// What each slot holds is written down in a file on a partition that both systems mount,
// together with what RAUC said then about the group: versions, digests, and when and how
// often something was installed. Only as long as RAUC says the same is a slot known to
// hold what was verified. If not (somebody has called "rauc install", or RAUC's status
// file was lost), what runs has the version that the system or RAUC says, and nothing
// about it is verified; what does not run is not booted.
//
//	{dir}/rauc.json  {dir}/staging-...
//
// That a trial begins is written down before RAUC is told, and that RAUC was told after
// it; RAUC's own count of activations says what happened if the power went in between.
package rauc
