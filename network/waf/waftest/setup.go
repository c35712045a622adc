package waftest

// Setup are the variables that the tests of the rule set are written for: the
// optional limits on, at level 4.
func Setup() map[string]string {
	return map[string]string{
		"crs_validate_utf8_encoding": "1", "arg_name_length": "100", "arg_length": "400", "total_arg_length": "64000",
		"max_num_args": "255", "max_file_size": "64100", "combined_file_sizes": "65535",
	}
}
