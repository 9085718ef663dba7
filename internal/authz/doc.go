// Package authz decides who may do what. It is the only place that does.
//
// One reviewed file, the policy, names principals (persons and workloads, known
// by the URI names of their certificates), their roles and limits, and grants:
// role × method × key set. Whatever no row grants is refused; zero values
// refuse; so do a nil Policy and a nil Principal.
//
// How a server uses it:
//
//	live := authz.NewLive()
//	change, err := live.Load(file)         // no policy, no start
//	err = live.Require(registered)         // a method without a row: no start
//	...
//	caller := live.Caller(uri)             // once per connection, call or stream
//	p, ok := caller.Principal()            // once per call or message: follows a reload
//	id, ok := authz.MethodByName(full)
//	p.MayCall(id)                          // before anything is read
//	p.Allows(id, keySet)                   // per tap, once the key set is known
//	a := p.Admit(now, len(taps))           // rate and concurrency; later p.Release(n)
package authz
