// Package domain holds the words of Holdfast as types: sites, protection groups, volumes, epochs, log sequence
// numbers, policies and plans. It imports the standard library only, and everything else may import it.
//
// The zero value of every safety type is invalid or safe: Epoch 0 serves nothing, Role "" is not primary,
// Mode "" replicates nothing until it is validated.
package domain
