// Package fleet runs every service of every site as an OS process of its own, its NATS server too, and starts what died again after
// a while, as a container's restart policy does. It is for tests that kill, stop and hold down single services.
package fleet
