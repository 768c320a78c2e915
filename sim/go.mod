module github.com/holdfast-dr/holdfast/sim

go 1.26.0

require (
	github.com/holdfast-dr/holdfast/pkg v0.0.0
	github.com/holdfast-dr/holdfast/services/quorum v0.0.0
)

replace (
	github.com/holdfast-dr/holdfast/pkg => ../pkg
	github.com/holdfast-dr/holdfast/services/quorum => ../services/quorum
)
