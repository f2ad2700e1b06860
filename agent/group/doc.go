// Package group makes several components one: its members are staged, activated,
// confirmed and rolled back together, all or none of them.
//
// A group is a deploy.Slots over those of its members. Its artifact is a pack (package
// topics/pack), which holds an artifact for each member; so wire contract, trust and state
// machine know of one component, one release, one digest, one attempt and one report. What
// runs is the group's version only while every member runs what belongs to it; otherwise
// no version runs.
//
//	Stage     nothing is written to any member before all of the pack is verified
//	Activate  one member after the other, in order, each of which has to be on trial
//	          before the next one's turn; a machine is the last, because it restarts
//	Trial     on trial while all are; fallen back when one is, and then all have to go back
//	Confirm   writes down that it is decided, then confirms one after the other. What
//	          cannot be taken back is confirmed last
//	FallBack  writes down that it is over, then puts one after the other back, in reverse
//
// After a kill between any two of these steps the group goes on in the direction that was
// written down: the state is one file, replaced as a whole. There is one turn: until all
// are confirmed a member may fall back by itself, because its boots have run out in kills
// and power cuts meanwhile. Then the members that were confirmed already take that back
// (Revert): what they ran before is still in their other slot. Only of one member may the
// confirmation be final, a module's whose step commit does away with the old version; it
// comes last, when all others are confirmed, so that nothing needs to be taken back after
// it.
//
// A member that cannot be put back, because what it ran before has been damaged meanwhile,
// stays what it is. The group then runs no version, says so, and takes the next release.
package group
