/*
 * The vote of services/quorum/core for the spin model checker: two candidates with an epoch each, three voters of one vote, up
 * to ROUNDS rounds of a holder (the Accept and its renewals) and CRASHES crashes of voters.
 *
 * The network is the set of all that was ever sent. Whatever is in it may be delivered at any time, any number of times, in
 * any order, or never: that is loss, duplication and delay without bound.
 *
 * Time is what the two bounds on clocks leave of it. A holder's deadline is the sending of a round + H, a voter's grant ends
 * at the receipt + G, and G at the voter is longer than H at the holder. So a voter may let a grant of round r end only when
 * r is over at its holder; nothing else is known of when anything happens.
 *
 * Checked in every reachable state:
 *   M   at most one candidate serves
 *   D1  a candidate that may begin knows the register of every epoch that a majority ever accepted
 *   and a voter's epochs never fall.
 *
 * A macro of the mutants below breaks one rule; each must be found. See the script check beside this file.
 */

#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif

#define ACK(v, c, r) ack[(v) * 2 * ROUNDS + (c) * ROUNDS + (r)]
#define VOTES(c, r) (ACK(0, c, r) + ACK(1, c, r) + ACK(2, c, r))

bit  prepared[2];           /* Prepare of candidate c was sent, for epoch c+1 */
byte sent[2];               /* rounds sent: the Accept and its renewals */
byte over[2];               /* of those, how many are past sending + H, in their order */
byte best[2];               /* rounds that reached a majority in time, counted to the last one: the deadline is that round's */
byte newest[2];             /* epoch of the newest register that the candidate's majority knew */

byte promised[3];           /* durable */
byte voted[3];              /* durable: the epoch last accepted, and with it its register */
byte seen[3];               /* volatile: rounds of that epoch that have extended the grant, counted to the last one */
byte held[3];               /* the grant ends no sooner than this round is over at the holder; 0: it has ended */

bit  promise[6];            /* the answer to a Prepare, voter v to candidate c at v*2+c */
byte known[6];              /* the epoch of the register in that answer */
bit  ack[6 * ROUNDS];       /* the answer to a round */

byte crashes;
byte accepted;              /* voters that ever accepted epoch 1, as bits */

#define CHOSEN1 (accepted == 3 || accepted == 5 || accepted == 6 || accepted == 7)

#ifdef SERVE_AFTER_EXPIRY
#define SERVES(c) (best[c] > 0)
#else
#define SERVES(c) (best[c] > over[c])
#endif

/* The invariants, where they could begin to be broken. */
#define MAJORITY(c, r) best[c] = (r) + 1; assert(!(SERVES(0) && SERVES(1)))
#define KNOWS assert(!(CHOSEN1 && sent[1] > 0 && newest[1] < 1))

#ifdef IGNORE_BUSY
#define BUSY(v, c) false
#else
#define BUSY(v, c) (voted[v] != 0 && voted[v] != (c) + 1 && held[v] > 0)
#endif

#ifdef LEASE_FROM_RECEIPT /* the holder counts from the answer: the voter's time may be over before the holder's */
#define ENDED(v) true
#else
#define ENDED(v) (over[voted[v] - 1] >= held[v])
#endif

#ifdef RENEW_AFTER_EXPIRY /* neither the voter nor the holder looks */
#define RENEWABLE(v, c) (voted[v] == (c) + 1)
#define LIVES(c) (best[c] > 0)
#else
#define LIVES(c) SERVES(c)
#define RENEWABLE(v, c) (voted[v] == (c) + 1 && promised[v] == (c) + 1)
#endif

#ifdef ANY_ROUNDS_ACK
#define REACHED(c, r) (VOTES(c, 0) >= 2)
#else
#define REACHED(c, r) (VOTES(c, r) >= 2)
#endif

inline note(v, r) { /* extend: only a round that is newer than every one seen, and the grant never shrinks */
	if
	:: r + 1 > seen[v] -> seen[v] = r + 1; if :: r + 1 > held[v] -> held[v] = r + 1 :: else fi
	:: else
	fi
}

inline vote(v, c) { /* Accept */
	assert(voted[v] <= c + 1);
	if
	:: voted[v] != c + 1 -> seen[v] = 0; held[v] = 0
	:: else
	fi;
	promised[v] = c + 1;
	voted[v] = c + 1;
	if :: c == 0 -> accepted = accepted | (1 << v) :: else fi;
	note(v, 0);
	ACK(v, c, 0) = 1;
	KNOWS
}

inline begin(c, v, w) { /* Accept is sent with the answers of two voters */
#ifdef REGISTER_IGNORED
	newest[c] = 0;
#else
	newest[c] = (known[v * 2 + c] > known[w * 2 + c] -> known[v * 2 + c] : known[w * 2 + c]);
#endif
	sent[c] = 1;
	KNOWS
}

#ifdef PROMISE_FORGOTTEN
#define FORGET(v) promised[v] = voted[v]
#else
#define FORGET(v) skip
#endif

#ifdef NO_REBOOT_HOLD_OFF
#define HOLD_OFF(v) held[v] = 0
#else /* busy for G from the boot: longer than H of every round that was sent before it */
#define HOLD_OFF(v) if :: voted[v] > 0 -> held[v] = sent[voted[v] - 1] :: else fi
#endif

#if ROUNDS > 2
#define THIRD(v, c) :: atomic { sent[c] > 2 && RENEWABLE(v, c) -> note(v, 2); ACK(v, c, 2) = 1 }
#define THIRD_COUNTED(c) :: atomic { LIVES(c) && best[c] < 3 && sent[c] > 2 && over[c] < 3 && REACHED(c, 2) -> MAJORITY(c, 2) }
#else
#define THIRD(v, c)
#define THIRD_COUNTED(c)
#endif

#define VOTER(v) \
	:: atomic { prepared[0] && promised[v] < 1 && !BUSY(v, 0) -> promised[v] = 1; promise[v * 2] = 1; known[v * 2] = voted[v] } \
	:: atomic { prepared[1] && promised[v] < 2 && !BUSY(v, 1) -> promised[v] = 2; promise[v * 2 + 1] = 1; known[v * 2 + 1] = voted[v] } \
	:: atomic { sent[0] > 0 && promised[v] <= 1 -> vote(v, 0) } \
	:: atomic { sent[1] > 0 && promised[v] <= 2 -> vote(v, 1) } \
	:: atomic { sent[0] > 1 && RENEWABLE(v, 0) -> note(v, 1); ACK(v, 0, 1) = 1 } \
	:: atomic { sent[1] > 1 && RENEWABLE(v, 1) -> note(v, 1); ACK(v, 1, 1) = 1 } \
	THIRD(v, 0) \
	THIRD(v, 1) \
	:: atomic { held[v] > 0 && ENDED(v) -> held[v] = 0 } \
	:: atomic { crashes < CRASHES -> crashes++; FORGET(v); seen[v] = 0; HOLD_OFF(v) }

#define CANDIDATE(c) \
	:: atomic { !prepared[c] -> prepared[c] = 1 } \
	:: atomic { sent[c] == 0 && promise[c] && promise[2 + c] -> begin(c, 0, 1) } \
	:: atomic { sent[c] == 0 && promise[c] && promise[4 + c] -> begin(c, 0, 2) } \
	:: atomic { sent[c] == 0 && promise[2 + c] && promise[4 + c] -> begin(c, 1, 2) } \
	:: atomic { sent[c] > 0 && sent[c] < ROUNDS && SERVES(c) -> sent[c]++ } \
	:: atomic { best[c] == 0 && sent[c] > 0 && over[c] < 1 && REACHED(c, 0) -> MAJORITY(c, 0) } \
	:: atomic { LIVES(c) && best[c] < 2 && sent[c] > 1 && over[c] < 2 && REACHED(c, 1) -> MAJORITY(c, 1) } \
	THIRD_COUNTED(c) \
	:: atomic { over[c] < sent[c] -> over[c]++ }

active proctype world() {
	do
	CANDIDATE(0)
	CANDIDATE(1)
	VOTER(0)
	VOTER(1)
	VOTER(2)
	od
}
