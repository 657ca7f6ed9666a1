package launch

// Path returns the file that is to be run.
func (p *Program) Path() string { return p.path }

// Argv returns the words that the program will find, the command's name first.
// The caller must not change them.
func (p *Program) Argv() []string { return p.argv }

// Env returns the environment that the program will find. The caller must not
// change it.
func (p *Program) Env() []string { return p.env }
