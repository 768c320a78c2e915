// Package identity makes and reads what an installation proves itself with: one certificate authority, TLS certificates,
// and the NATS operator, accounts and users whose permissions come from pkg/access. Private keys never leave the site
// they were made at.
//
// # How an installation comes to be
//
//	at a:   card, err := identity.Found(dirA, specA, opt)                    // dirA/ca, dirA/secrets (complete for a alone)
//	        card.Write("a.card.json")                                        // public; carries the CA
//	at b:   peer, err := identity.ReadCard("a.card.json")
//	        card, err := identity.NewSite(dirB, specB, &peer)                // keys and requests; pins a's CA
//	        card.Write("b.card.json")                                        // public
//	at a:   auth, err := identity.OpenAuthority(dirA, opt)
//	        inst, err := auth.Admit(cardB, cardW)                            // signs; the serial grows
//	        err = identity.Install(dirA, inst); inst.Write("installation.json")  // public
//	at b:   inst, err := identity.ReadInstallation("installation.json")
//	        err = identity.Install(dirB, inst)                               // checks against the pinned CA, completes dirB/secrets
//
// # Rotation
//
//	at b:   card, err := identity.Renew(dirB, nil)      // new keys beside the old ones, which stay in use; signed by the old
//	at a:   inst, err := auth.Reissue(revokeOld, cardB) // new certificates and user credentials
//	at all: identity.Install(dir, inst)                 // running services see the new files and reconnect
//
// The CA itself: auth.RollOver() makes a new CA beside the old one; installations then carry both and are signed by both;
// after every site has been reissued, auth.Retire() drops the old.
//
// # Two users for one key
//
// A NATS server checks a permission after it has taken its own JetStream domain out of the subject, so that no permission can
// say "at site a's server only". Each principal therefore has two tokens for its one key: one with what it may do at its own
// site's server, signed by a key that only that server's account takes, and one for every other server.
//
// # Files below a site's folder
//
//	secrets/trust/ca.pem               trusted CAs
//	secrets/trust/installation.json    the Installation last installed
//	secrets/nats/{server.pem,server.key}
//	secrets/<name>/{client.pem,client.key,user.creds}   name: see access.Services
//	secrets/<name>/next.{key,nk}       keys made by NewSite or Renew whose certificates have not come yet
//	ca/                                at the founding site only; may be kept elsewhere. operator.jwt never changes: a running
//	                                   NATS server refuses to reload another
//
// Private files have mode 0600, folders 0700, and every file is replaced by rename.
//
// # Use
//
//	creds, err := identity.Open(cfg.Security.Secrets, "failover")
//	creds.Certificate, creds.Roots      // as nats.ClientTLSConfig takes them; they look at the files at each handshake
//	creds.UserJWT(site), creds.SignNonce  // for nats.UserJWT
//	creds.Sign(data), creds.Verify(...) // requests that prove who made them
//	creds.Watch(ctx, interval)          // tells when files changed
package identity
