package api

import "groundswell/fleetd/fleet"

// Transfer is where the bytes came from that the devices of a rollout got, as they say.
type Transfer struct {
	Devices int64 `json:"devices" doc:"That said where theirs came from"`
	Origin  int64 `json:"origin_bytes" doc:"Received of fleetd or a cache before it: all but what peers sent"`
	Delta   int64 `json:"delta_bytes" doc:"Received of deltas"`
	Packed  int64 `json:"packed_bytes" doc:"Received of blocks that were packed one by one"`
	Full    int64 `json:"full_bytes" doc:"Received of the artifact as it is"`
	Index   int64 `json:"index_bytes" doc:"Received of indexes"`
	Peer    int64 `json:"peer_bytes" doc:"Received of other devices"`
	Local   int64 `json:"local_bytes" doc:"Of the artifact, that devices had already"`
	Saved   int64 `json:"saved_by_delta_bytes" doc:"By how much less those received than the artifact has who took some of it from a delta"`
}

// Transfers is Transfer by region.
type Transfers struct {
	Transfer
	Regions []RegionTransfer `json:"regions"`
}

// RegionTransfer is the part of one region.
type RegionTransfer struct {
	Region string `json:"region" doc:"Empty: of devices that are in none"`
	Transfer
}

func viewTransfer(t fleet.TransferSum) Transfer {
	return Transfer{Devices: t.Devices, Origin: t.Origin(), Delta: t.Delta, Packed: t.Packed, Full: t.Full, Index: t.Index, Peer: t.Peer, Local: t.Local, Saved: t.Saved}
}

// viewTransfers is nil when no device has said anything.
func viewTransfers(regions []fleet.TransferSum) *Transfers {
	if len(regions) == 0 {
		return nil
	}
	var all fleet.TransferSum
	out := &Transfers{}
	for _, t := range regions {
		all = all.Add(t)
		out.Regions = append(out.Regions, RegionTransfer{t.Region, viewTransfer(t)})
	}
	out.Transfer = viewTransfer(all)
	return out
}
