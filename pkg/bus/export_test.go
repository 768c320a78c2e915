package bus

import "context"

// Reconnect closes the connection, which is made anew at once.
func (c *Conn) Reconnect() error { return c.nc.ForceReconnect() }

// Renew makes the connection anew, as new keys do.
func (c *Conn) Renew(ctx context.Context) { c.renew(ctx) }

// Diagnose names a refusal and its mend.
var Diagnose = diagnose
