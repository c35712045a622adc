// Package socket reads and writes sockets without telling the scheduler.
//
// The runtime takes each system call for one that may block: it marks the thread, and
// its monitor wakes up to 50,000 times a second to see whether the call has come back,
// and to give the processor away if it has not. A socket does not block: it says that
// there is nothing, and the goroutine waits for the poller. So there is nothing to
// watch. On a plane that does little but such calls, the monitor took a seventh of all
// processor time.
//
// On systems other than Linux, and on 386, where sockets have one system call for all,
// connections stay as they are.
package socket
