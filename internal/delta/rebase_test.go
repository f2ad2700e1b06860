package delta

import (
	"bytes"
	"slices"
	"testing"
)

// moved is a rebaser for which offsets from 4096 on have moved by 256.
func moved(address uint64) *rebaser {
	copies := []copied{{0, 0, 4096}, {4096 + 256, 4096, 4096}}
	return &rebaser{
		addresses: func() *addresses { return newAddresses(slices.Values(copies), 8192) },
		whole:     program{end: 8192, loads: []load{{size: 8192, reach: 8192, address: address}}},
	}
}

func TestPassesRewriteAddresses(t *testing.T) {
	for _, test := range []struct {
		pass, name string
		address    uint64 // of the program
		old, want  []byte
	}{
		{"arm64", "BL", 0, words(0x94000400), words(0x94000440)},
		{"arm64", "B backwards stays in its copy", 0, words(0xd503201f, 0x17ffffff), words(0xd503201f, 0x17ffffff)},
		{"arm64", "B.NE", 0, words(0x54008001), words(0x54008801)},
		{"arm64", "CBZ", 0, words(0xb4008000), words(0xb4008800)},
		{"arm64", "ADRP, ADD", 0, words(0xb0000000, 0x91004000), words(0xb0000000, 0x91044000)},
		{"arm64", "ADRP, something else, LDR of 8 bytes", 0, words(0xb0000001, 0xd503201f, 0xf9400822), words(0xb0000001, 0xd503201f, 0xf9408822)},
		{"arm64", "ADRP over a page", 0x400000, words(0xb0000000, 0x913c4000), words(0xd0000000, 0x91004000)},
		{"thumb", "BL", 0, []byte{0x00, 0xf0, 0xfe, 0xff}, []byte{0x01, 0xf0, 0x7e, 0xf8}},
		{"thumb", "B.W", 0, []byte{0x00, 0xf0, 0xfe, 0xbf}, []byte{0x01, 0xf0, 0x7e, 0xb8}},
		{"thumb", "no branch", 0, []byte{0x00, 0xf0, 0x01, 0x00}, []byte{0x00, 0xf0, 0x01, 0x00}},
		{"riscv", "JAL", 0, words(0x000010ef), words(0x100010ef)},
		{"riscv", "AUIPC, ADDI", 0, words(0x00001297, 0x01028293), words(0x00001297, 0x11028293)},
		{"riscv", "AUIPC, ADDI of a negative number", 0, words(0x00002297, 0x80028293), words(0x00002297, 0x90028293)},
		{"riscv", "AUIPC, SD", 0, words(0x00001297, 0x0062b823), words(0x00001297, 0x1062b823)},
		{"x86", "CALL", 0, []byte{0xe8, 0xfb, 0x0f, 0, 0}, []byte{0xe8, 0xfb, 0x10, 0, 0}},
		{"x86", "JE", 0, []byte{0x0f, 0x84, 0xfa, 0x0f, 0, 0}, []byte{0x0f, 0x84, 0xfa, 0x10, 0, 0}},
		{"x86", "MOV RAX, [RIP+d]", 0, []byte{0x48, 0x8b, 0x05, 0xf9, 0x0f, 0, 0}, []byte{0x48, 0x8b, 0x05, 0xf9, 0x10, 0, 0}},
		{"x86", "a target in no program", 0, []byte{0xe8, 0, 0, 0, 0x40}, []byte{0xe8, 0, 0, 0, 0x40}},
		{"absolute 32", "a pointer", 0x400000, words(7, 0x401000), words(7, 0x401100)},
		{"absolute 32", "offsets are no addresses", 0, words(0x1000), words(0x1000)},
		{"absolute 64", "a pointer", 0xffffffff81000000, words(0x81001008, 0xffffffff), words(0x81001108, 0xffffffff)},
		{"relative 32", "a distance", 0, words(4096), words(4352)},
	} {
		t.Run(test.pass+" "+test.name, func(t *testing.T) {
			set := uint16(0)
			for i, p := range passes {
				if p.name == test.pass {
					set = 1 << i
				}
			}
			got := bytes.Clone(test.old)
			moved(test.address).rebase(new(piece), set, test.old, got, 0, copied{0, 0, 4096})
			if !bytes.Equal(got, test.want) {
				t.Errorf("got % x, want % x", got, test.want)
			}
		})
	}
}

func words(list ...uint32) []byte {
	b := make([]byte, 4*len(list))
	for i, w := range list {
		storeWord(b[4*i:], 4, w)
	}
	return b
}

func TestLongestCopySaysWhereAddressesWent(t *testing.T) {
	a := newAddresses(slices.Values([]copied{
		{0, 1000, 100},    // shift -1000
		{5000, 1050, 400}, // 3950, longer: counts where both are
		{9000, 1100, 30},  // 7900, within the longer one
		{9100, 2000, 30},  // 7100, too short to go on
		{9200, 3000, 10},  // too short to count
	}), 4096)
	for _, test := range []struct{ old, want int64 }{
		{0, 0}, {999, 0}, {1000, -1000}, {1049, -1000}, {1050, 3950}, {1100, 3950}, {1449, 3950},
		{1450, 3950}, {2000, 7100}, {2029, 7100}, {2030, 3950}, {3005, 3950}, {4095, 3950}, {4096, 3950}, {1 << 40, 0}, {-1, 0},
	} {
		if got := a.shift(test.old); got != test.want {
			t.Errorf("offset %d moved by %d, want %d", test.old, got, test.want)
		}
	}
}

func TestAddressesOfManyPages(t *testing.T) {
	const page = 1 << 16
	a := newAddresses(slices.Values([]copied{
		{0, 100, 500},                 // shift -100
		{1000, page - 50, 100},        // 1050-page, over the end of a page
		{2000, 3 * page, 64},          // 2000-3*page, at the begin of one; the page before has none
		{3000, 3*page + 64, page - 2}, // 2936-3*page, up to the one behind it
	}), 4*page+5000)
	for _, test := range []struct{ old, want int64 }{
		{99, 0}, {100, -100}, {599, -100}, {600, -100}, {page - 51, -100},
		{page - 50, 1050 - page}, {page - 1, 1050 - page}, {page, 1050 - page}, {2 * page, 1050 - page}, {3*page - 1, 1050 - page},
		{3 * page, 2000 - 3*page}, {3*page + 63, 2000 - 3*page}, {3*page + 64, 2936 - 3*page}, {4*page + 61, 2936 - 3*page},
		{4*page + 8191, 2936 - 3*page}, {4*page + 8192, 0}, // of 4 KiB the last that the image has something of
	} {
		if got := a.shift(test.old); got != test.want {
			t.Errorf("offset %d moved by %d, want %d", test.old, got, test.want)
		}
	}
}
