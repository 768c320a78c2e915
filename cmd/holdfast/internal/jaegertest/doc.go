// Package jaegertest asks a real Jaeger for the traces of runs and says what is wrong with them. Tests use it: those that
// start a Jaeger of their own, with Start, and those that are given the address of one, with New.
//
//	jaeger := jaegertest.New("http://127.0.0.1:16686")
//	tr := jaeger.AwaitRun(t, runID)                 // exactly one trace has the tag run=<id>
//	tr.CheckFailover(t, jaegertest.Failover{Leader: "b", Sites: []string{"b", "w"}, Lost: "a"})
package jaegertest
