// Package whatif holds predictions against reality: installations are made at random, a loss is predicted from their live state, then it is
// carried out on real processes, and who serves what, where, in which order and with which loss is compared.
package whatif
