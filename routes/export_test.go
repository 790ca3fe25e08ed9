package routes

// Spares returns the operations that would remove what is superfluous.
func Spares(t *Table, l *Ledger) []Op {
	s := t.Compress().Snapshot
	return spares(s, l, everything(s, l))
}
