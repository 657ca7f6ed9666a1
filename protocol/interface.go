package protocol

import _ "embed"

// Interface is the definition of the interface io.fdbroker, as org.varlink.service.GetInterfaceDescription returns it.
//
//go:embed io.fdbroker.varlink
var Interface string

// ServiceInterface is the definition of the interface that every Varlink service
// has. Its errors are used where they fit.
//
//go:embed org.varlink.service.varlink
var ServiceInterface string

// The interfaces, and their methods.
const (
	InterfaceName        = "io.fdbroker"
	ServiceInterfaceName = "org.varlink.service"

	MethodGet     = InterfaceName + ".Get"
	MethodList    = InterfaceName + ".List"
	MethodBind    = InterfaceName + ".Bind"
	MethodUnbind  = InterfaceName + ".Unbind"
	MethodReload  = InterfaceName + ".Reload"
	MethodUpgrade = InterfaceName + ".Upgrade"
	MethodDrain   = InterfaceName + ".Drain"
	MethodDeploy  = InterfaceName + ".Deploy"
	MethodPut     = InterfaceName + ".Put"
	MethodAttach  = InterfaceName + ".Attach"
	MethodWatch   = InterfaceName + ".Watch"

	MethodGetInfo                 = ServiceInterfaceName + ".GetInfo"
	MethodGetInterfaceDescription = ServiceInterfaceName + ".GetInterfaceDescription"
)

// The default limits of a broker.
const (
	MaxMessage     = 64 << 10 // bytes of one call
	MaxNamesInCall = 64       // names in one call, and so descriptors in one reply
	MaxReply       = 16 << 20 // bytes of one reply: as many as other Varlink clients accept
)

// States of a grant, as [Holder] has them.
const (
	StateWaiting  = "waiting"
	StateStandby  = "standby"
	StateActive   = "active"
	StateDraining = "draining"
)

// The events of a grant, as [GetReply] has them. A watcher gets EventUnbound too, and a deploy EventDrain.
const (
	EventUnbound = "unbound" // the last of the grant's listeners was unbound
	EventDrain   = "drain"   // the holder should stop accepting, and leave
)

// EventRoll is an event of a deploy, as [DeployReply] has it: it should replace its workers by new ones.
const EventRoll = "roll"

// The events that a watcher gets, as [Event] has them.
const (
	EventWatching = "watching"
	EventBound    = "bound"
	EventGranted  = "granted"
	EventDraining = "draining"
	EventEnded    = "ended"
	EventRefused  = "refused"
	EventFlipped  = "flipped"
	EventHealed   = "healed"
	EventRenewed  = "renewed" // the listener has a new socket
	EventStalled  = "stalled"
	EventServed   = "served" // a stalled listener's queue is empty again
	EventOverflow = "overflow"
	// EventRestarted is for a client that begins to watch soon after a broker took over.
	EventRestarted = "restarted"
)

// Why a broker was restarted.
const (
	WhyCrashed  = "crashed"
	WhyStopped  = "stopped"
	WhyUpgraded = "upgraded"
	// WhyUpgradeFailed says that the new program ended before it was ready, and that the one before goes on.
	WhyUpgradeFailed = "upgrade failed"
	WhyKeeperLost    = "keeper lost"
)

// GetParameters are the parameters of Get.
type GetParameters struct {
	Names       []string `json:"names"`
	Wait        bool     `json:"wait,omitempty"`
	Blocking    *bool    `json:"blocking,omitempty"`    // nil: no need
	DrainSignal string   `json:"drainSignal,omitempty"` // without "SIG"; "": none
	Generation  int64    `json:"generation,omitempty"`  // 0: the grant's own id
	Resume      int64    `json:"resume,omitempty"`      // 0: a new grant
}

// GetReply is a reply to Get: the sockets, or an event of the grant.
type GetReply struct {
	Grant   int64    `json:"grant,omitempty"`
	Sockets []Socket `json:"sockets,omitempty"`
	Event   string   `json:"event,omitempty"`
}

// Socket is a socket handed out. FileDescriptor is an index into the descriptors that came with the message.
type Socket struct {
	Name           string `json:"name"`
	Network        string `json:"network"`
	Address        string `json:"address"`
	FileDescriptor int    `json:"fileDescriptor"`
}

// ListReply is the reply to List. Deployers is nil if there are none that the caller sees, and from earlier brokers.
type ListReply struct {
	Listeners []Listener `json:"listeners"`
	Holders   []Holder   `json:"holders"`
	Deployers []Deployer `json:"deployers,omitempty"`
}

// Deployer is a client that starts workers: those that hold, or wait for, listeners by its generation.
type Deployer struct {
	Generation int64    `json:"generation"`
	Names      []string `json:"names"`         // that it has given, or that its workers hold
	PID        int      `json:"pid,omitempty"` // 0: not visible from the broker's namespace
	UID        uint32   `json:"uid"`
}

// Listener is a listener as it is now. Queue, Limit and Drops are nil if the kernel does not say them; the first two
// count connections, or bytes if Bytes is set. Flipped says that a holder changed O_NONBLOCK. Unseen is how many
// grants ended while the process, which the broker cannot follow, may have gone on. Orphaned says that something is
// queued and nobody uses the listener. Stalled says that the listener has holders and its queue has not been empty for
// 5 s. Healed is how often the broker repaired the socket after a holder, and Ailment the fault that it cannot repair.
type Listener struct {
	Name     string  `json:"name"`
	Network  string  `json:"network"`
	Address  string  `json:"address"`
	Spec     string  `json:"spec"`
	Cookie   uint64  `json:"cookie"`
	Max      int     `json:"max,omitempty"` // 0: any number of holders
	Blocking bool    `json:"blocking"`
	Flipped  bool    `json:"flipped"`
	Queue    *int64  `json:"queue,omitempty"`
	Limit    *int64  `json:"limit,omitempty"`
	Bytes    bool    `json:"bytes"`
	Drops    *uint64 `json:"drops,omitempty"`
	Holders  int     `json:"holders"`
	Unseen   int     `json:"unseen,omitempty"`
	// Strays are processes that have the socket open without a grant, at most five. They are looked for if the listener
	// has no holder, and told to root and the broker's user only.
	Strays []Process `json:"strays,omitempty"`

	Stale    int  `json:"stale,omitempty"` // holders of the socket that it had before
	Waiting  int  `json:"waiting"`
	Orphaned bool `json:"orphaned"`
	Stalled  bool `json:"stalled,omitempty"`
	// StalledSince is when the broker saw the queue empty last, in microseconds since 1970-01-01 UTC, if Stalled is set.
	StalledSince int64 `json:"stalledSince,omitempty"`

	Healed       int    `json:"healed"`
	HealedLimits int    `json:"healedLimits,omitempty"` // so many of them restored the queue's limit only
	Ailment      string `json:"ailment,omitempty"`
	// Unstored says why the broker's store does not have the socket, which would be lost with the broker; "": it has it.
	Unstored string `json:"unstored,omitempty"`
	// Capped says what the kernel gives less of than Spec says. Only the replies to Bind and Put have it.
	Capped []string `json:"capped,omitempty"`
}

// Holder is a grant and the process behind it.
type Holder struct {
	Grant      int64    `json:"grant"`
	Generation int64    `json:"generation"` // by which Drain decides: the deploy's id, or Grant
	Names      []string `json:"names"`
	PID        int      `json:"pid,omitempty"` // 0: not visible from the broker's namespace
	UID        uint32   `json:"uid"`
	GID        uint32   `json:"gid"`
	Command    string   `json:"command,omitempty"` // that the process shows: not to be trusted
	Since      int64    `json:"since"`             // microseconds since 1970-01-01 UTC
	State      string   `json:"state"`
	Connection bool     `json:"connection"`      // lasts as long as a connection
	Stale      []string `json:"stale,omitempty"` // of Names: those of which it has the old socket
}

// WatchReply is a reply to Watch.
type WatchReply struct {
	Event Event `json:"event"`
}

// Event is something that happened. [Interface] says which fields are set for which What.
type Event struct {
	What     string  `json:"what"`
	Time     int64   `json:"time"` // microseconds since 1970-01-01 UTC
	Listener string  `json:"listener,omitempty"`
	Network  string  `json:"network,omitempty"`
	Address  string  `json:"address,omitempty"`
	Holder   *Holder `json:"holder,omitempty"`
	Why      string  `json:"why,omitempty"`
	Method   string  `json:"method,omitempty"`
}

// DrainParameters are the parameters of Drain.
type DrainParameters struct {
	Names  []string `json:"names"`
	Before *int64   `json:"before,omitempty"` // nil: every grant
}

// DrainReply is a reply to Drain. Left is nil if the call was made without "more".
type DrainReply struct {
	Drained  int      `json:"drained"`
	Left     *int     `json:"left,omitempty"`
	Failed   int      `json:"failed,omitempty"`
	Unserved []string `json:"unserved,omitempty"` // nobody holds or waits for these but those that leave
}

// DeployParameters are the parameters of Deploy.
type DeployParameters struct {
	Names      []string `json:"names"`
	Generation int64    `json:"generation,omitempty"` // 0: a new one
	Rolls      bool     `json:"rolls,omitempty"`      // the caller acts on EventRoll; earlier versions do not
}

// DeployReply is a reply to Deploy: the generation, or an event.
type DeployReply struct {
	Generation int64  `json:"generation,omitempty"`
	Event      string `json:"event,omitempty"`
}

// BindParameters are the parameters of Bind.
type BindParameters struct {
	Listeners []string `json:"listeners"`
}

// BindReply is the reply to Bind.
type BindReply struct {
	Listeners []Listener `json:"listeners"`
}

// UnbindParameters are the parameters of Unbind.
type UnbindParameters struct {
	Names []string `json:"names"`
}

// UnbindReply is the reply to Unbind.
type UnbindReply struct {
	Remaining []Remaining `json:"remaining,omitempty"`
}

// Remaining is a process that still has the socket of a listener that was unbound. One that was granted it accepts on
// it; another one has got it from such a process, usually its parent. One that is neither granted nor visible is unseen,
// and may have gone.
type Remaining struct {
	Name    string `json:"name"`
	PID     int    `json:"pid,omitempty"` // 0: not visible from the broker's namespace
	Command string `json:"command,omitempty"`
	Granted bool   `json:"granted"`
}

// NetworkAny is the network of a descriptor that was put with Any. Its address says what the descriptor is.
const NetworkAny = "any"

// PutParameters are the parameters of Put. A call without FileDescriptor only asks whether the client may send one.
type PutParameters struct {
	Name           string `json:"name"`
	Options        string `json:"options,omitempty"` // OPTION[=VALUE],... as in a spec
	Any            bool   `json:"any,omitempty"`
	PID            int    `json:"pid,omitempty"` // of a process that accepts on the socket; 0: none
	DrainSignal    string `json:"drainSignal,omitempty"`
	FileDescriptor *int   `json:"fileDescriptor,omitempty"`
}

// PutReply is the reply to Put. Listener is nil if the client may send a descriptor now.
type PutReply struct {
	Listener *Listener `json:"listener,omitempty"`
}

// AttachParameters are the parameters of Attach. A call without FileDescriptor only asks
// whether the client may send one.
type AttachParameters struct {
	Name           string `json:"name"`
	Holders        []int  `json:"holders,omitempty"` // processes that the caller has started, by pid
	DrainSignal    string `json:"drainSignal,omitempty"`
	Generation     int64  `json:"generation,omitempty"`
	FileDescriptor *int   `json:"fileDescriptor,omitempty"`
}

// AttachReply is the reply to Attach: the address that the socket must have.
type AttachReply struct {
	Network string `json:"network"`
	Address string `json:"address"`
}

// ReloadParameters are the parameters of Reload.
type ReloadParameters struct {
	Force  bool `json:"force,omitempty"`  // unbind listeners that are in use, too
	Rebind bool `json:"rebind,omitempty"` // bind new sockets also if processes are left on the old ones
}

// ReloadReply is the reply to Reload: names.
type ReloadReply struct {
	Bound   []string `json:"bound"`
	Unbound []string `json:"unbound"`
	Changed []string `json:"changed"`
	// Renewed are those of Changed that have a new socket, and those of Unbound whose address another listener has. With
	// rebind, it has names with an old socket from before, too.
	Renewed []Renewed `json:"renewed,omitempty"`
}

// Renewed says who has the old socket of a listener: so many workers of deploys, which replace them, and clients with
// "more", which were told, processes that are asked to leave by their drain signal, and others.
type Renewed struct {
	Name    string    `json:"name"`
	Rolling int       `json:"rolling"`
	Moving  int       `json:"moving"`
	Asked   []Process `json:"asked"`
	Left    []Process `json:"left"`
}

// Info is the reply to GetInfo.
type Info struct {
	Vendor     string   `json:"vendor"`
	Product    string   `json:"product"`
	Version    string   `json:"version"`
	URL        string   `json:"url"`
	Interfaces []string `json:"interfaces"`
}

// InterfaceParameters are the parameters of GetInterfaceDescription.
type InterfaceParameters struct {
	Interface string `json:"interface"`
}

// InterfaceReply is the reply to GetInterfaceDescription.
type InterfaceReply struct {
	Description string `json:"description"`
}
