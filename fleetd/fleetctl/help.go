package main

import "strings"

// What --help teaches: for each command the way it is used. A test runs every
// line of them.

// examples is the help text of a command.
func examples(lines ...string) string {
	return "Examples:\n\n  " + strings.Join(lines, "\n  ")
}

func (*keysInit) Help() string {
	return examples(
		"fleetctl keys init --dir keys --trust-domain fleet.example.org",
		"fleetctl keys init --dir keys --trust-domain fleet.example.org --release-keys 3 --root-keys 3 --root-threshold 2 --passphrase-file pass.txt",
	)
}

func (*keysDevice) Help() string {
	return examples("fleetctl keys device cam-0001 --dir keys --out factory --model cam-a --hardware rev-b")
}

func (*keysService) Help() string {
	return examples(
		"fleetctl keys service broker --dir keys --out services --host mqtt.example.org",
		"fleetctl keys service fleetd --dir keys --out services --host fleetd.example.org --host 10.0.0.7",
	)
}

func (*keysOperator) Help() string {
	return examples("fleetctl keys operator alice --dir keys --out operators")
}

func (*keysToken) Help() string {
	return examples("fleetctl keys token alice --role operator --dir keys --out alice.token --lifetime 12h")
}

func (*keysRevoke) Help() string {
	return examples("fleetctl keys revoke --dir keys factory/cam-0001.crt")
}

func (*keysNew) Help() string {
	return examples(
		"fleetctl keys new release-3",
		"fleetctl keys new holders/bob --passphrase-file pass.txt",
	)
}

func (*keysShowRoot) Help() string {
	return examples(
		"fleetctl keys show-root image",
		"fleetctl keys show-root director --root director-root.json -o json",
	)
}

func (*keysRotateRoot) Help() string {
	return `The new root counts when enough keys of the old root and enough keys of the new
one have signed it. The holders sign one after the other, each on a machine
without a network: rotate-root makes it, sign-root adds signatures, publish-root
brings it to fleetd. Devices follow from there, however long they were away.

The roles of image are root, release, snapshot and timestamp; those of director
are root and director. To replace a key, remove the old one and add the new one.

` + examples(
		"fleetctl keys rotate-root image --out root-2.json --lifetime 43800h",
		"fleetctl keys rotate-root image --out root-2.json --remove release=release-1.pub --add release=release-3.pub",
		"fleetctl keys rotate-root image --out root-2.json --add root=bob.pub --threshold root=2 --key image-root.key",
		"fleetctl keys rotate-root director --out root-2.json --remove director=director.pub --add director=director-2.pub --key director-root.key",
		"fleetctl keys sign-root image --root root-2.json --key bob.key",
		"fleetctl keys publish-root image --root root-2.json",
	)
}

func (*keysSignRoot) Help() string {
	return examples(
		"fleetctl keys sign-root image --root root-2.json",
		"fleetctl keys sign-root image --root root-2.json --key bob.key --passphrase-file pass.txt",
	)
}

func (*keysPublishRoot) Help() string {
	return examples("fleetctl keys publish-root image --root root-2.json")
}

func (*keysFetchRoot) Help() string {
	return examples("fleetctl keys fetch-root image", "fleetctl keys fetch-root director")
}

func (*releaseCreate) Help() string {
	return examples("fleetctl release create --name camera --version 1.1.0 --artifact camera.img --model cam-a --model cam-b --key release-1.key --key release-2.key")
}

func (*releasePrepare) Help() string {
	return examples(
		"fleetctl release prepare --bundle next.json --name camera --version 1.1.0 --artifact camera.img --model cam-a",
		"fleetctl release sign --bundle next.json --artifact camera.img --key release-1.key",
		"fleetctl release sign --bundle next.json --artifact camera.img --key release-2.key",
		"fleetctl release publish --bundle next.json",
	)
}

func (*releaseSign) Help() string {
	return examples(
		"fleetctl release sign --bundle next.json",
		"fleetctl release sign --bundle next.json --artifact camera.img --key release-1.key --passphrase-file pass.txt",
	)
}

func (*releasePublish) Help() string {
	return examples(
		"fleetctl release publish --bundle next.json",
		"fleetctl release publish --bundle next.json --artifact camera.img",
	)
}

func (*releaseRefresh) Help() string {
	return examples(
		"fleetctl release refresh --key release-1.key --key release-2.key",
		"fleetctl release refresh --bundle next.json --lifetime 4380h",
	)
}

func (*releaseList) Help() string {
	return examples("fleetctl release list", "fleetctl release list --name camera -o json")
}

func (*releaseShow) Help() string { return examples("fleetctl release show camera@1.1.0") }

func (*cohortCreate) Help() string {
	return examples(
		"fleetctl cohort create eu --selector region=eu",
		"fleetctl cohort create lobby --selector 'model in (cam-a,cam-b),site=lobby' --description 'cameras of the lobby'",
		"fleetctl cohort create ours --device cam-0001 --device cam-0002",
	)
}

func (*cohortUpdate) Help() string {
	return examples(
		"fleetctl cohort update eu --selector 'region in (eu,uk)'",
		"fleetctl cohort update eu --description 'Europe' --revision 3",
	)
}

func (*cohortDelete) Help() string { return examples("fleetctl cohort delete lobby") }
func (*cohortList) Help() string   { return examples("fleetctl cohort list") }

func (*cohortShow) Help() string {
	return examples("fleetctl cohort show eu", "fleetctl cohort show eu --members --limit 0 -o json")
}

func (*cohortManifest) Help() string { return examples("fleetctl cohort manifest eu") }

func (*rolloutCreate) Help() string {
	return `The policy is JSON; what it leaves out has fleetd's defaults:

  {"waves": [{"percent": 1, "spread": "10m", "soak": "1h"}, {"percent": 100, "spread": "6h"}],
   "gate": {"success_percent": 98}, "breaker": {"percent": 2, "window": "10m"},
   "delta_wait": "30m"}

The first wave opens when the deltas from the versions that most devices run are
made, or after delta_wait (10m). "0s" does not wait.

` + examples(
		"fleetctl rollout create camera@1.1.0 --cohort eu --cohort us --canary ours",
		"fleetctl rollout create camera@1.1.0 --cohort eu --from '<1.1.0' --policy policy.json --start",
		"fleetctl rollout create camera@1.1.0 --cohort eu --start-at 2027-05-04T02:00:00Z",
	)
}

func (*rolloutUpdate) Help() string {
	return examples(
		"fleetctl rollout update r-k3j5mz7qabcd --policy policy.json",
		"fleetctl rollout update r-k3j5mz7qabcd --cohort eu --cohort uk --revision 2",
	)
}

func (*rolloutList) Help() string {
	return examples("fleetctl rollout list --state running", "fleetctl rollout list --release camera -o json")
}

func (*rolloutShow) Help() string { return examples("fleetctl rollout show r-k3j5mz7qabcd") }
func (*rolloutPreview) Help() string {
	return examples("fleetctl rollout preview r-k3j5mz7qabcd", "fleetctl rollout preview r-k3j5mz7qabcd --price-per-gb 0.08 -o json")
}

func (*rolloutStart) Help() string  { return examples("fleetctl rollout start r-k3j5mz7qabcd") }
func (*rolloutResume) Help() string { return examples("fleetctl rollout resume r-k3j5mz7qabcd") }

func (*rolloutWatch) Help() string {
	return examples("fleetctl rollout watch", "fleetctl rollout watch r-k3j5mz7qabcd", "fleetctl rollout watch r-k3j5mz7qabcd --every 10s -o json")
}

func (*rolloutPause) Help() string {
	return examples(
		"fleetctl rollout pause r-k3j5mz7qabcd --reason 'complaints from the lobby'",
		"fleetctl rollout pause r-k3j5mz7qabcd --revision 7",
	)
}

func (*rolloutCancel) Help() string {
	return examples("fleetctl rollout cancel r-k3j5mz7qabcd --reason 'superseded by 1.1.1'")
}

func (*rolloutRevert) Help() string {
	return examples(
		"fleetctl rollout revert r-k3j5mz7qabcd --to 1.0.0",
		"fleetctl rollout revert r-k3j5mz7qabcd --to 1.0.0 --ignore-windows --policy policy.json --note 'no audio'",
	)
}

func (*rolloutDevices) Help() string {
	return examples("fleetctl rollout devices r-k3j5mz7qabcd --state rolled_back", "fleetctl rollout devices r-k3j5mz7qabcd --wave 0 --limit 0")
}

func (*rolloutEvents) Help() string { return examples("fleetctl rollout events r-k3j5mz7qabcd") }

func (*deviceList) Help() string {
	return examples(
		"fleetctl device list --cohort eu --below 2.0",
		"fleetctl device list --model cam-a --connected false --limit 0 -o json",
		"fleetctl device list --rollout r-k3j5mz7qabcd --state rolled_back",
	)
}

func (*deviceShow) Help() string { return examples("fleetctl device show cam-0001") }

func (*deviceCreate) Help() string {
	return examples("fleetctl device create cam-0001 --region eu --time-zone Europe/Berlin --label site=lobby")
}

func (*deviceSet) Help() string {
	return examples(
		"fleetctl device set cam-0001 --region us --time-zone America/New_York",
		"fleetctl device set cam-0001 --label site=hall --label floor=2 --unlabel lobby",
		"fleetctl device set cam-0001 --customer '' --polling 15m --revision 4",
	)
}

func (*deviceImport) Help() string {
	return `CSV, for example:

  id,region,time_zone,polling_s,site
  cam-0001,eu,Europe/Berlin,,lobby
  cam-0002,us,America/New_York,900,hall

` + examples("fleetctl device import devices.csv", "fleetctl device import -")
}

func (*deviceLogs) Help() string { return examples("fleetctl device logs cam-0001 --limit 5") }

func (*deviceCommand) Help() string {
	return examples(
		"fleetctl device command cam-0001 report",
		"fleetctl device command cam-0001 logs --expires 10m --wait 30s",
		"fleetctl device command cam-0001 retry --rollout r-k3j5mz7qabcd",
	)
}

func (*commandStatus) Help() string {
	return examples("fleetctl device command-status c-k3j5mz7qabcd", "fleetctl device command-status c-k3j5mz7qabcd --wait 30s")
}

func (*alertList) Help() string {
	return examples("fleetctl alert list", "fleetctl alert list --state open -o json")
}
func (*alertShow) Help() string { return examples("fleetctl alert show 7") }
func (*alertAcknowledge) Help() string {
	return examples("fleetctl alert acknowledge 7 --note 'replaced on Monday'") + `

Refused when it was seen again since you looked: look again, or name the
revision that you mean by --revision.`
}
func (*alertClear) Help() string     { return examples("fleetctl alert clear 7") }
func (*deadLettersCmd) Help() string { return examples("fleetctl dead-letters --limit 10") }

func (*auditCmd) Help() string {
	return examples("fleetctl audit --actor alice", "fleetctl audit --object rollout/r-k3j5mz7qabcd -o json")
}

func (*whoamiCmd) Help() string { return examples("fleetctl whoami") }
