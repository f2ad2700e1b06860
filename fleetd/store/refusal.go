package store

import (
	"fmt"

	"groundswell/topics"
)

// refusalRow is what the broker refused a device, as writeRefusals reads it. ID
// is the same when the record comes again.
type refusalRow struct {
	ID      string         `json:"id"`
	Action  string         `json:"action"`
	Object  string         `json:"object"`
	Message string         `json:"message"`
	Detail  topics.Refusal `json:"detail"`
	At      int            `json:"at"` // index of the record
}

// writeRefusals writes audit rows, and raises an alert about those that are
// new.
const writeRefusals = `
	WITH told AS (
		SELECT * FROM json_to_recordset($1) AS n (id text, action text, object text, message text, detail jsonb, at integer)
	), fresh AS (
		INSERT INTO audit (actor, action, object, request_id, detail)
		SELECT 'broker', action, object, id, detail FROM told ORDER BY at
		ON CONFLICT (request_id) WHERE action LIKE 'refused.%' DO NOTHING RETURNING request_id
	), alerted AS (
		INSERT INTO alert AS a (kind, object, message, count)
		SELECT 'refused', object, (array_agg(message ORDER BY at DESC))[1], count(*)
		FROM told JOIN fresh ON request_id = id GROUP BY object ORDER BY object
		ON CONFLICT (kind, object) DO UPDATE SET message = excluded.message, count = a.count + excluded.count, ` + seenAgain + `
	)
	SELECT request_id FROM fresh`

func (u *uplink) refusal(m message, p topics.Refusal) {
	row := refusalRow{
		ID:     m.record.id(),
		Action: "refused." + string(p.Action), Object: "device/" + m.device,
		Message: fmt.Sprintf("the broker refused it (%s): %s", p.Action, p.Detail), Detail: p, At: m.at,
	}
	if p.Detail == "" {
		row.Message = fmt.Sprintf("the broker refused it (%s): %s", p.Action, p.Reason)
	}
	u.refusals.put(row.ID, row, func(old, _ refusalRow) refusalRow { return old })
}
