package protocol

import "strconv"

// GenerationEnv is the environment variable that says which deploy a process belongs to; see
// [GetParameters].
const GenerationEnv = "FDBROKER_GENERATION"

// GenerationOf returns the generation that the environment has, or 0.
func GenerationOf(getenv func(string) string) int64 {
	text := getenv(GenerationEnv)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
